"""The app: which address leads where."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.formparsers import MultiPartParser
from starlette.responses import HTMLResponse, JSONResponse, Response

from lm import __version__
from lm.serving import chat, completions, embeddings, errors, media, schemas, tasks
from lm.serving.guard import Guard
from lm.serving.house import House, Served
from lm.serving.limits import Limits
from lm.serving.security import Keys

_LOOKING: dict[type[schemas.Body], Callable[[Served, Any], Any]] = {
    schemas.Embedding: embeddings.embed,
    schemas.Classify: tasks.classify,
    schemas.Tag: tasks.tag,
    schemas.Answer: tasks.answer,
    schemas.Fill: tasks.fill,
    schemas.Detect: media.detect,
    schemas.Segment: media.segment,
    schemas.Transcribe: media.transcribe,
}
MultiPartParser.spool_max_size = 1 << 40  # bytes: no file that is sent lands on a disk
# What the page may do: speak with this server, and nothing else.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
_POLICY += "; img-src data:; media-src data:"  # of files that somebody tries
_POLICY += "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def make_app(
    house: House,
    limits: Limits | None = None,
    keys: Keys | None = None,
    local: bool = True,
    log: bool = False,
    figures: Callable[[], Awaitable[Any]] | None = None,
) -> Guard:
    """The app of some models; its engines are started and stopped by whoever runs it. See `Guard`.

    Args:
        figures: gives what /metrics says, where that is more than this app's own.
    """
    app = FastAPI(title="lm serve", version=__version__, docs_url=None, redoc_url=None)
    registry = CollectorRegistry()
    guard = Guard(app, limits or Limits(), keys or Keys(), registry, local, log)
    errors.install(app)
    _about(app, guard, house, figures)
    _writing(app, house)
    _hearing(app, house)
    for kind, function in _LOOKING.items():
        app.post(f"/v1/{kind.ability}", description=kind.__doc__)(_look(house, kind, function))
    described = app.openapi()
    guard.paths = {"/", *described["paths"]}
    guard.files = {f"/v1/{able}" for each in house.models.values() if each.files for able in each.abilities}
    for name, schema in described["components"]["schemas"].items():  # which models can be named where
        ability = getattr(getattr(schemas, name, None), "ability", None)
        if able := [each.name for each in house.models.values() if ability in each.abilities]:
            schema["properties"]["model"]["enum"] = able
    return guard


def _about(app: FastAPI, guard: Guard, house: House, figures: Callable[[], Awaitable[Any]] | None) -> None:
    """What is here, and how it is."""
    page = files("lm.serving").joinpath("page.html").read_text(encoding="utf-8")
    guard.registry.register(_Engines(house))

    @app.get("/", include_in_schema=False)
    async def _page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def _icon() -> Response:
        return Response(status_code=204)

    @app.get("/health")
    async def health() -> Response:
        """200, and 503 once the server stops."""
        status = "stopping" if guard.stopping else "ok"
        return JSONResponse({"status": status}, 503 if guard.stopping else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        found = await figures() if figures else guard.registry
        return Response(generate_latest(found), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [each.card for each in house.models.values()]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Any:
        return house.find(name, None).card


def _writing(app: FastAPI, house: House) -> None:
    """What engines answer."""

    @app.post("/v1/completions", description=schemas.Completion.__doc__)
    async def complete(http: Request, body: schemas.Completion) -> Any:
        return await completions.complete(http, house.find(body.model, body.ability), body)

    @app.post("/v1/chat/completions", description=schemas.ChatCompletion.__doc__)
    async def talk(http: Request, body: schemas.ChatCompletion) -> Any:
        return await chat.answer(http, house.find(body.model, body.ability), body)


def _hearing(app: FastAPI, house: House) -> None:
    """What is asked by a form."""

    @app.post("/v1/audio/transcriptions", description=schemas.Transcription.__doc__)
    async def transcribe(
        form: Annotated[schemas.Transcription, Form(media_type="multipart/form-data")],
    ) -> Any:
        served = house.find(form.model, form.ability)
        return await served.work(media.transcription, served, form, await form.file.read())


def _look(house: House, kind: type[schemas.Body], function: Callable[[Served, Any], Any]) -> Any:
    """The answer to a request of that kind, by a function in the model's thread."""

    async def look(body: Any) -> Any:
        served = house.find(body.model, body.ability)
        return await served.work(function, served, body)

    look.__annotations__["body"] = kind
    return look


class _Engines(Collector):
    """What the engines say of themselves, asked when somebody wants to know."""

    def __init__(self, house: House) -> None:
        self.house = house

    def collect(self) -> Any:
        found: dict[str, GaugeMetricFamily] = {}
        for served in self.house.models.values():
            if served.engine is None:
                continue
            stats = vars(served.engine.stats())
            ended = {f"finished_{how}": count for how, count in stats.pop("finished").items()}
            for name, value in {**stats, **ended}.items():
                words = name.replace("_", " ")
                family = GaugeMetricFamily(f"lm_engine_{name}", words, labels=["model"])
                found.setdefault(name, family).add_metric([served.name], float(value))
        yield from found.values()
