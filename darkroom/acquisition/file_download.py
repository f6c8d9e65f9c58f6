"""Published files, each fetched once and held against its digest."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.errors import WebError
from darkroom.pipeline.files import file_sha256
from darkroom.pipeline.stage import StageError

MAXIMUM_BYTES = 200_000_000


def fetch_files(client: WebClient, address: str, sha256: Mapping[str, str], folder: Path, parallel: int) -> None:
    """Fetch the files of the data set at `address`, whose names and digests are given, that are not in `folder` yet.

    Raises:
        StageError: one cannot be fetched, or is another one than expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tqdm(desc=f"acquire: {', '.join(sha256)}", unit="B", unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(parallel) as pool,
    ):
        waiting = [
            pool.submit(fetch_file, client, address + name, folder / name, digest, bar.update)
            for name, digest in sha256.items()
        ]
        for future in waiting:
            future.result()


def fetch_file(client: WebClient, address: str, path: Path, sha256: str, progress: Callable[[int], object]) -> None:
    """Fetch a published file into `path`, unless it is there already.

    Raises:
        StageError: it cannot be fetched, or is not the file with this digest.
    """
    if path.exists() and file_sha256(path) == sha256:
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        client.download(address, partial, MAXIMUM_BYTES, progress=progress, what=f"acquire: {path.name}")
        got = file_sha256(partial)
        if got != sha256:
            raise StageError(
                f"{address} has changed: expected a file of sha256 {sha256}, got {got}; get it elsewhere, "
                "put it into the folder that acquire.folder names, and set acquire.dataset.files to folder"
            )
        partial.replace(path)
    except WebError as error:
        raise StageError(
            f"{address} cannot be fetched ({error}): run again later, with a longer "
            "acquire.download.timeout_seconds if that was too short; or put the file into the folder that "
            "acquire.folder names, and set acquire.dataset.files to folder"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
