"""What a request may say. Fields of OpenAI's that mean nothing here are ignored, such as `user`; those that
would change the answer and that this server has not are refused."""

from typing import Annotated, Any, ClassVar, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from lm.serving import limits

Text = Annotated[str, Field(max_length=limits.TEXT)]
Stop = Annotated[str, Field(max_length=limits.STOP_LENGTH)]
# A list ends at its first mistake: a million of them would take their time.
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(fail_fast=True)]
_PROMPTS = Field(min_length=1, max_length=limits.PROMPTS, fail_fast=True)
_INPUTS = Field(min_length=1, max_length=limits.INPUTS, fail_fast=True)
_FILES = Field(min_length=1, max_length=limits.FILES, fail_fast=True)
_MESSAGES = Field(min_length=1, max_length=limits.MESSAGES, fail_fast=True)
Texts = Text | Annotated[list[Text], _INPUTS]
Files = str | Annotated[list[str], _FILES]  # in base64; how long is for the guard to say
# What would change the answer, and the values of it that don't.
REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "suffix": ("",),
    "language_model": (),  # which names a file
    "best_of": (1,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}


class Body(BaseModel):
    """Of every request: a number is no text and a text no number, and none is infinite. `ability` is what the
    model has to be able to do, which is the address, too."""

    ability: ClassVar[str]
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())
    model: Text

    @model_validator(mode="before")
    @classmethod
    def _said(cls, given: Any) -> Any:
        """What is null is as if it were not there."""
        if not isinstance(given, dict):
            return given
        said = {name: value for name, value in given.items() if value is not None}
        for name, harmless in REFUSED.items():
            if name in said and name not in cls.model_fields and said[name] not in harmless:
                words = "this server has no such thing yet: leave it out"
                raise PydanticCustomError("not_there", words, {"param": name})
        return said


class StreamOptions(BaseModel):
    include_usage: bool = False


class Schema(BaseModel):
    """A JSON Schema. The answer is held to it whether `strict` or not."""

    model_config = ConfigDict(strict=True)
    name: str = Field("", max_length=64)
    schema_: dict[str, Any] = Field({}, alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's form of an answer."""

    model_config = ConfigDict(strict=True)
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            words = "`json_schema` goes with the type json_schema, and this with it"
            raise PydanticCustomError("schema", words, {"param": "response_format"})
        return self


class StructuredOutputs(BaseModel):
    """vLLM's form of an answer, of which there is the regular expression that all of it matches."""

    model_config = ConfigDict(strict=True, extra="forbid")
    regex: str = Field(max_length=limits.REGEX)


class Writing(Body):
    """What a completion and a chat have in common; as OpenAI has it, and `top_k` and `min_p` beside it, and
    vLLM's `structured_outputs`."""

    max_tokens: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=limits.BIASES)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: Stop | Annotated[list[Stop], Field(max_length=limits.STOPS, fail_fast=True)] = []
    n: int = Field(1, ge=1, le=limits.CHOICES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat(type="text")
    structured_outputs: StructuredOutputs | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))


class Completion(Writing):
    """`/v1/completions`: what comes after a prompt, or after each of several; ids are taken as they are."""

    ability = "completions"

    prompt: Text | Annotated[list[Text], _PROMPTS] | Ids | Annotated[list[Ids], _PROMPTS]
    logprobs: int | None = Field(None, ge=0, le=limits.TOP)
    echo: bool = False


class Part(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], _MESSAGES]

    @property
    def said(self) -> tuple[str, str]:
        """Role and text."""
        content = self.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        return "system" if self.role == "developer" else self.role, text


class ChatCompletion(Writing):
    """`/v1/chat/completions`: the answer to the user's last message."""

    ability = "chat/completions"

    messages: Annotated[list[ChatMessage], _MESSAGES]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=limits.TOP)


class Embedding(Body):
    """`/v1/embeddings`: a vector of length 1 for each text."""

    ability = "embeddings"

    input: Texts | Ids | Annotated[list[Ids], _INPUTS]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


class Classify(Body):
    """`/v1/classify`: labels of texts, of pairs, or of pictures and sounds in base64; or ratings."""

    ability = "classify"

    input: str | Annotated[list[str], _INPUTS]
    pair: Texts | None = None


class Tag(Body):
    """`/v1/tag`: the entities of sentences."""

    ability = "tag"

    input: Texts


class Answer(Body):
    """`/v1/answer`: answers to questions, each in its text."""

    ability = "answer"

    question: Texts
    context: Texts


class Fill(Body):
    """`/v1/fill`: guesses for each `<mask>`."""

    ability = "fill"

    input: Texts
    best: int = Field(5, ge=1, le=100)


class Detect(Body):
    """`/v1/detect`: the things in pictures, given in base64, whose score is `threshold` or more."""

    ability = "detect"

    input: Files
    threshold: float | None = Field(None, ge=0, le=1)


class Segment(Body):
    """`/v1/segment`: what each pixel of pictures shows, given in base64; or, of a model that tells things
    apart, those whose score is `threshold` or more."""

    ability = "segment"

    input: Files
    threshold: float | None = Field(None, ge=0, le=1)


class Transcribe(Body):
    """`/v1/transcribe`: what is said in sounds, given in base64, and when."""

    ability = "transcribe"

    input: Files
    beam_width: int | None = Field(None, ge=1, le=limits.BEAM)


class Transcription(Body):
    """`/v1/audio/transcriptions`: what is said in a sound, by OpenAI's form, which has its fields as text.
    `verbose_json` has the words' times; hints such as `language` and `prompt` mean nothing here."""

    ability = "audio/transcriptions"
    model_config = ConfigDict(strict=False)

    file: UploadFile
    response_format: Literal["json", "text", "verbose_json"] = "json"
    timestamp_granularities: list[Literal["word"]] = Field([], alias="timestamp_granularities[]")
    stream: Literal["false"] = "false"
    beam_width: int | None = Field(None, ge=1, le=limits.BEAM)
