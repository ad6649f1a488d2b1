"""The page behind *Connect*: a chat in the browser, run in a process of its own beside the gateway.

Owns the Gradio page, what surrounds it (headers, allowed routes) and the code to paste. It is a client of the gateway
like any other and holds no conversation: that stays in the user's browser. Gradio is imported only by `chat`.
"""
