"""The page behind *Connect*: chat or transcription in the browser, run in a process of its own beside the gateway.

Owns the Gradio pages, what surrounds them (headers, allowed routes) and the code to paste. A page is a client of the
gateway like any other and holds no work of anybody's: that stays in the user's browser. Only the modules of the pages
themselves import Gradio.
"""
