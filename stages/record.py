"""Record the result as one MLflow run, once, whether DVC computed it or restored it from its cache.

Reads   dvc.lock               code, params, data and outputs of all stages, which identify the result
        params.yaml, data/, metrics/   the content of the run
Writes  MLflow                 the run: the live run of the training, or a new one if DVC restored the training
Run as  python -m stages.record    (`dvc repro` always runs it; a known result takes no time)

The store is MLFLOW_TRACKING_URI, by default mlflow.db in the project.
The experiment is MLFLOW_EXPERIMENT_NAME or that of MLFLOW_EXPERIMENT_ID, by default "darkroom".
"""

from darkroom.pipeline.paths import DVC_LOCK
from darkroom.pipeline.stage import refuse_arguments, run_stage
from darkroom.recording.result import RunOrigin, list_artifacts, read_result
from darkroom.tracking.lockfile import check_finished, earlier_keys, read_stages, result_key
from darkroom.tracking.relocation import relocate_artifacts
from darkroom.tracking.store import find_recorded_run, find_store


def main() -> None:
    stages = read_stages(DVC_LOCK)
    check_finished(stages, "explain", DVC_LOCK)
    store = find_store()
    relocate_artifacts(store)

    key = result_key(stages)
    found = (find_recorded_run(store, known, list_artifacts(stages)) for known in (key, *earlier_keys(stages)))
    run_id, origin = next(filter(None, found), None), RunOrigin.KNOWN
    if run_id is None:
        # Imports MLflow, which takes seconds; a known result does not need it.
        from darkroom.recording.run import record_result

        run_id, origin = record_result(store, read_result(stages))

    print(f"record: result {key[:12]} -> run {run_id} of {store.shown_address}, {origin}")


if __name__ == "__main__":
    refuse_arguments("record", __doc__)
    run_stage("record", main)
