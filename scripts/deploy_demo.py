"""See a deployment without an account: publish release/ to a Hub on loopback and load the model back from it.

    python -m scripts.deploy_demo            (or `make deploy-demo`)

The server is the tests' own (tests/loopback_hub.py). It runs in this process, keeps everything in memory and is
gone with it; no token is needed, nothing leaves the machine, and deploy/deployed.json stays as it is.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from affine.errors import AffineError
from affine.params import DeployParams, load_params
from affine.stage import main

ROOT = Path(__file__).resolve().parents[1]

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, logging
logging.disable_progress_bar()
repository = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(repository)
model = AutoModelForCausalLM.from_pretrained(repository)
chat = [{"role": "user", "content": "Goal: pick up the red ball. You see a red ball 1 step forward."}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
print(f"{type(model).__name__}, {model.num_parameters():,} parameters; it answers:")
print("   ", tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
"""What a stranger runs, who knows the repository's name and has no token."""


def run(release: str = "release") -> None:
    """Deploy the folder `release` twice and load it back, saying each step. Raises AffineError."""
    # Imported late: huggingface_hub reads the environment when it is imported, and tests/ is no package.
    _stay_here()
    sys.path.insert(0, str(ROOT / "tests"))
    from loopback_hub import LoopbackHub

    from affine.release.hub import deploy
    from affine.release.provenance import provenance

    if not Path(release).is_dir():
        raise AffineError(f"{release}: no such folder; run `make all` first")
    params = load_params(ROOT / "params.yaml")
    repo, token = f"demo/{params.release.name}", f"hf_{secrets.token_hex(8)}"
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as folder:
        hub.add_user(token, "demo")
        os.environ["HF_TOKEN"] = token
        root = Path(folder)
        (root / "release").symlink_to(Path(release).resolve())
        settings = DeployParams(repo=repo, private=False, tag="v1", endpoint=hub.url)
        here = params.model_copy(update={"deploy": settings})
        origin = provenance(ROOT, Path(release))
        print(f"a Hub on loopback: {hub.url}\n\n$ make deploy DRY=1", flush=True)
        deploy(here, root, dry_run=True, origin=origin)
        print("\n$ make deploy", flush=True)
        deploy(here, root, origin=origin)
        print("\n$ make deploy      (again, with nothing changed)", flush=True)
        deploy(here, root, origin=origin)
        print(f"\n$ python           (a stranger: from_pretrained('{repo}'))", flush=True)
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/home"}
        del environment["HF_TOKEN"]
        done = subprocess.run([sys.executable, "-c", LOAD, repo], env=environment, check=False, cwd=root)
        if done.returncode != 0:
            raise AffineError(f"{repo} was published but does not load; see above")


def _stay_here() -> None:
    """Make this process and its children ask the server on this machine, whatever proxy or offline switch is set."""
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # the server speaks LFS
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, ("127.0.0.1", os.environ.get(name, ""))))


if __name__ == "__main__":
    main(run, *sys.argv[1:])
