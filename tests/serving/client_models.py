"""python tests/serving/client_models.py DIRECTORY: write the models of the client's tests and their models.config.

To run these tests against TensorFlow Serving, start
tensorflow_model_server --port=8500 --rest_api_port=8501 --model_config_file=DIRECTORY/models.config
--allow_version_labels_for_unavailable_models --enable_grpc_healthcheck_service
and set KERASNETS_MODEL_SERVER=HOST:8500,HOST:8501. In a container, DIRECTORY must have the same path.
"""

import sys
from pathlib import Path

from serving_helpers import CONFIG, build_example, build_number


def main(directory: Path) -> None:
    build_example(directory / "example" / "1")
    build_number(directory / "example" / "2", 2)
    build_number(directory / "number" / "1", 1)
    (directory / "models.config").write_text(CONFIG.format(models=directory), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
