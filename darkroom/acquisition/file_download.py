"""Download published files once and verify their SHA-256 digests."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.errors import WebError
from darkroom.pipeline.files import file_sha256
from darkroom.pipeline.stage import StageError

MAXIMUM_BYTES = 200_000_000


def fetch_files(client: WebClient, url: str, sha256: Mapping[str, str], folder: Path, parallel: int) -> None:
    """Download the files of a data set that are not in `folder` yet.

    Args:
        client: a client that allows the host of `url`.
        url: the folder in which the files are published, with a slash at its end.
        sha256: file name to digest.
        folder: where the files are stored.
        parallel: number of files that are downloaded at the same time.

    Raises:
        StageError: a file cannot be downloaded, or has another digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tqdm(desc=f"acquire: {', '.join(sha256)}", unit="B", unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(parallel) as pool,
    ):
        futures = [
            pool.submit(fetch_file, client, url + name, folder / name, digest, bar.update)
            for name, digest in sha256.items()
        ]
        for future in futures:
            future.result()


def fetch_file(client: WebClient, url: str, path: Path, sha256: str, progress: Callable[[int], object]) -> None:
    """Download a published file to `path`, unless it is there already.

    Raises:
        StageError: the file cannot be downloaded, or has another digest.
    """
    if path.exists() and file_sha256(path) == sha256:
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        client.download(url, partial, MAXIMUM_BYTES, progress=progress, what=f"acquire: {path.name}")
        got = file_sha256(partial)
        if got != sha256:
            raise StageError(
                f"{url} has changed: expected SHA-256 {sha256}, got {got}; get the file from another "
                "site, put it into the folder named by acquire.folder, and set acquire.dataset.files to folder"
            )
        partial.replace(path)
    except WebError as error:
        raise StageError(
            f"{url} cannot be downloaded ({error}): run again later, with a larger "
            "acquire.download.timeout_seconds if it timed out; or put the file into the folder named by "
            "acquire.folder, and set acquire.dataset.files to folder"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
