"""The engine `whisper` as a program: OpenAI's audio server over faster-whisper, on the session's Unix socket."""
