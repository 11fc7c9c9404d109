"""ModelScope: its client goes on where it stopped and checks what came."""

from pathlib import Path

from xinglin.cli import bearer
from xinglin.files import work_folder
from xinglin.hubs.faults import among, from_cache, patiently
from xinglin.hubs.settings import READ


def modelscope_model(model: str, revision: str | None) -> Path:
    """Fetch what is read of a model; without a network take it from the cache."""
    from modelscope_hub.compat import snapshot_download
    from modelscope_hub.errors import NetworkError

    bearer("MODELSCOPE_API_TOKEN")
    try:
        return Path(patiently(lambda: snapshot_download(model, revision=revision, **READ), hub="modelscope"))
    except NetworkError as error:  # of the listing: files that did not come are another error
        return from_cache("modelscope", error, lambda: snapshot_download(model, revision=revision, local_files_only=True))


def modelscope_file(dataset: str, name: str, revision: str | None) -> Path:
    """Fetch one file of a data set into the folder for unfinished work."""
    from modelscope_hub import HubApi

    bearer("MODELSCOPE_API_TOKEN")
    hub = HubApi()
    file = among(patiently(lambda: hub.list_repo_files(dataset, "dataset", revision=revision), hub="modelscope"), name)
    folder = work_folder("raw", f"{dataset.replace('/', '--')}@{revision or 'master'}")
    checks = {"file_size": file.size, "expected_sha256": file.sha256}
    fetched = patiently(
        lambda: hub.download_file(dataset, "dataset", name, revision=revision, local_dir=folder, **checks), hub="modelscope"
    )
    return Path(fetched)
