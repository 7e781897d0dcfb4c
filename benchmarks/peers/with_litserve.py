"""A SavedModel behind LitServe: python with_litserve.py SAVED_MODEL --port=PORT"""

import sys

import litserve
import numpy as np


class Model(litserve.LitAPI):
    def setup(self, device):
        import tensorflow as tf

        self.tf = tf
        self.run = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]

    def decode_request(self, request):
        return np.array(request["x"], np.float32)

    def predict(self, x):
        return self.run(x=self.tf.constant(x))["y"].numpy()

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Model(), accelerator="cpu")
    server.run(
        host="127.0.0.1", port=int(sys.argv[2].removeprefix("--port=")), generate_client_file=False, access_log=False
    )
