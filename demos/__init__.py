"""The demos: a page with a tab for each task, answered by a model server over gRPC.

``predictions`` holds what is asked of the server, ``tabs`` and ``app`` what is shown; only these know Gradio.
"""
