"""python tests/serving/client_models.py DIRECTORY: the models that the client's tests ask for, and their models.config.

A real server, which then answers the same tests, is started with
tensorflow_model_server --port=8500 --rest_api_port=8501 --model_config_file=DIRECTORY/models.config
--allow_version_labels_for_unavailable_models --enable_grpc_healthcheck_service
and named by KERASNETS_MODEL_SERVER=HOST:8500,HOST:8501. Inside a container DIRECTORY has to have the same path.
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
