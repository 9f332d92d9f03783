"""What went wrong, in the shape that OpenAI's clients know: {"error": {message, type, param, code}}."""

import json
import logging
import os
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lm.errors import UserError

_log = logging.getLogger("lm.serving")
_KINDS = ("str", "int", "float")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class APIError(Exception):
    """An answer other than what was asked for.

    Args:
        status: of HTTP.
        message: a sentence for the person who asks.
        param: the field of the request that it is about.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {"Retry-After": "1"} if status in (429, 503) else {}
        self.headers |= headers or {}

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        # Escaped as ASCII: a name that was sent may be no valid Unicode.
        return Response(json.dumps(self.body), self.status, self.headers, "application/json")


def of_validation(errors: Any) -> APIError:
    """The first thing that is wrong with a request's fields; of several kinds that a field could have been,
    what is wrong with the one that it is."""
    found = next((e for e in errors if not e["type"].endswith("_type")), errors[0])
    path = [str(part) for part in found["loc"][1:]]
    if found["type"] == "json_invalid":
        return APIError(400, "the body is not JSON: " + found["ctx"]["error"], code="invalid_json")
    if not path and found["type"] in ("missing", "model_attributes_type", "dict_type"):
        wanted = "a JSON object, with the header Content-Type: application/json"
        return APIError(400, f"the body has to be {wanted}", code="invalid_json")
    param = found.get("ctx", {}).get("param") or (path[0] if path else None)
    # Names alone; pydantic's words for the kinds that a field can have are left out.
    where = ".".join(part for part in path if part.isidentifier() and part not in _KINDS) or param
    words = "it is missing" if found["type"] == "missing" else found["msg"]
    return APIError(400, f"`{where}`: {words[:1].lower()}{words[1:]}", param)


def log_failure(error: BaseException) -> None:
    """Say what failed and where, without what anybody asked: messages of errors may quote it."""
    if os.environ.get("LM_DEBUG"):
        _log.error("a request failed", exc_info=error)
        return
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" in {frame.filename}:{frame.lineno}" for frame in last)
    _log.error("a request failed: %s%s (LM_DEBUG=1 shows more)", type(error).__name__, where)


def failed() -> APIError:
    return APIError(500, "something went wrong in the server; its log says where", code="internal_error")


def install(app: FastAPI) -> None:
    """Have an app answer so, whatever goes wrong in it."""

    @app.exception_handler(APIError)
    async def _ours(_: Request, error: APIError) -> Response:
        return error.response

    @app.exception_handler(RequestValidationError)
    async def _fields(_: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors()).response

    @app.exception_handler(UserError)
    async def _user(_: Request, error: UserError) -> Response:
        return APIError(400, str(error)).response

    @app.exception_handler(Exception)
    async def _unforeseen(_: Request, error: Exception) -> Response:
        return failed().response  # the guard logs it

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        form = request.headers.get("content-type", "").startswith("multipart/")
        words = {
            404: "there is nothing at this address: /openapi.json lists what there is",
            405: f"this address does not take {request.method}",
            400: "the body is not the form that its header promises" if form else "the body is not JSON",
        }
        found = APIError(error.status_code, words.get(error.status_code, str(error.detail)))
        found.headers |= dict(error.headers or {})
        return found.response
