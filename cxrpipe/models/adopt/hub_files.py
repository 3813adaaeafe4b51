"""Files of the Hugging Face hub: from its cache, else fetched into it, else named in one line."""

import urllib.request

from cxrpipe import console
from cxrpipe.errors import ConfigError

CONFIG, WEIGHTS, PREPROCESSOR, README = "config.json", "model.safetensors", "preprocessor_config.json", "README.md"
_CONNECT_S = 10


def local(repo: str, file: str, instead: str) -> str:
    """The path of a file of a repository, which is fetched where the cache of the hub lacks it.

    instead  what takes the file by hand: ends the message of the ConfigError where it cannot be fetched
    """
    import huggingface_hub
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, without __all__

    try:
        cached = huggingface_hub.try_to_load_from_cache(repo, file)
        if isinstance(cached, str):
            return cached
        url = huggingface_hub.hf_hub_url(repo, file)
        # The hub's client tries six times, in 24 s and ten lines of log, before it reports that there is no network.
        request = urllib.request.Request(url, method="HEAD", headers=build_hf_headers())
        urllib.request.urlopen(request, timeout=_CONNECT_S).close()
        console.log(f"fetching {url}")
        return huggingface_hub.hf_hub_download(repo, file)
    except (OSError, ValueError) as error:  # ValueError: not a name of the hub
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        url = f"https://huggingface.co/{repo}/resolve/main/{file}"
        raise ConfigError(
            f"{repo}: {file} cannot be fetched here ({why}); fetch {url} elsewhere, then {instead}"
        ) from None
