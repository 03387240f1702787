"""The commands of `python -m affine`, one file each.

A command is a function `(arguments) -> exit code`; its module is imported only when it is called, so that
`--help` costs nothing.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("affine.cli.doctor:run", "what this machine can run, and what to do about the rest"),
    "envs": ("affine.cli.envs:run", "the eight environments: levels, turns, experts, speed"),
    "play": ("affine.cli.play:run", "play an environment by hand, with its expert at your side"),
    "params": ("affine.cli.params:run", "check params.yaml, or print every value in force"),
    "preset": ("affine.cli.preset:run", "merge a preset (smoke, qwen3-4b, ...) into params.yaml"),
    "pretrain": ("affine.cli.pretrain:run", "make the nano model from seed and code"),
    "verdict": ("affine.cli.verdict:run", "judge models anew from their stored episodes"),
    "policies": ("affine.cli.policies:run", "the validators' dated rules side by side"),
    "plan": ("affine.cli.plan:run", "how many episodes a gain of some points needs"),
    "report": ("affine.cli.report:run", "write the run as one HTML file"),
    "deps": ("affine.deps:main", "compare stages' declared code with what they import"),
    "check": ("affine.cli.check:run", "what validators would say about a release"),
    "bench": ("affine.cli.bench:run", "measure speed on this machine, beside references"),
    "readme": ("affine.cli.readme:run", "make the generated parts of the guides anew, or check them"),
}
"""Name -> ("module:function", what it does in one line)."""
