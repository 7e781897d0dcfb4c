"""The demos: a web page with a tab for each task, which sends requests to a model server over gRPC.

``predictions`` sends the requests; ``app``, ``tabs``, ``page`` and ``pad`` build the page, and only they import Gradio.
"""
