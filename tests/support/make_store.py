"""MLflow's store of the project in the working folder, with one experiment: python -m tests.support.make_store NAME."""

import sys

from pipeline.tracking.mlflow_run import connect

if __name__ == "__main__":
    connect(sys.argv[1])
