"""What an audio request gets instead of a transcript, in the shape of OpenAI's errors."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """An HTTP `status`, a sentence for people, a `code` for programs and the `param` of the request at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """The JSON of the answer."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def model_broken(why: str) -> Refusal:
    """Nothing can be transcribed any more, because of `why`."""
    return Refusal(
        503, f"The model is broken: {why}. Start the session again.", "model_broken", retry_after_s=60
    )
