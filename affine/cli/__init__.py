"""The commands of `python -m affine`, one file each.

A command is a function `(arguments) -> exit code`; its module is imported only when it is called, so that
`--help` costs nothing.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("affine.cli.doctor:run", "what this machine can run, and what to do about the rest"),
    "envs": ("affine.cli.envs:run", "the eight environments: levels, turns, experts, speed"),
    "experts": ("affine.cli.experts:run", "how often experts succeed, by level and type of task, with the failures"),
    "play": ("affine.cli.play:run", "play an environment by hand, with its expert at your side"),
    "params": ("affine.cli.params:run", "check params.yaml, or print every value in force"),
    "preset": ("affine.cli.preset:run", "merge a preset (smoke, qwen3-4b, ...) into params.yaml"),
    "pretrain": ("affine.cli.pretrain:run", "make the nano model from seed and code"),
    "verdict": ("affine.cli.verdict:run", "judge models anew from their stored episodes"),
    "incumbents": ("affine.cli.incumbents:run", "other models' results: check and list them, add one"),
    "policies": ("affine.cli.policies:run", "the validators' dated rules side by side"),
    "plan": ("affine.cli.plan:run", "how many episodes a gain of some points needs"),
    "repro": ("affine.cli.repro:run", "run the graph with independent stages side by side"),
    "tune": ("affine.cli.tune:run", "search parameters, each trial a DVC experiment"),
    "experiments": ("affine.cli.experiments:run", "DVC's experiments in a table that fits a terminal"),
    "watch": ("affine.cli.watch:run", "training curves in the terminal while a run goes on"),
    "report": ("affine.cli.report:run", "write the run as one HTML file, or compare it with a commit's for a review"),
    "lineage": ("affine.cli.lineage:run", "which data, code, parameters and versions made an output"),
    "deps": ("affine.deps:main", "compare stages' declared code with what they import"),
    "remote-check": ("affine.cli.remote_check:run", "is everything that dvc.lock names on the remote, whole?"),
    "check": ("affine.cli.check:run", "what validators would say about a release"),
    "serve": ("affine.cli.serve:run", "how to serve the release: vLLM, SGLang, Transformers, Chutes"),
    "bench": ("affine.cli.bench:run", "measure speed on this machine, beside references"),
    "readme": ("affine.cli.readme:run", "make the generated parts of the guides anew, or check them"),
}
"""Name -> ("module:function", what it does in one line)."""
