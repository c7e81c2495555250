"""The command line: `python -m launch [VERB] --config configs/NAME.py --workdir DIR ...`.

Verbs
  train         (default) train, evaluate, and go on where the workdir stands
  eval          evaluate a checkpoint on a split
  predict       image files -> classes with probabilities, and a sheet of pictures
  export        a trained network -> one file to deploy, or a program that runs without this project
  energy        firing rates, operations and energy under several conventions, as table and report
  verify        somebody's checkpoint -> which network it is, whether its binary form is it, rates, energy
  merge         what merging RepConv and SepConv does to bits, size, operations and accuracy
  information   entropy, mutual information and bimodality of q, k, v, and spikes an image, of a checkpoint
  inspect       parameters, shapes, operations and memory of a config, without training
  ablate        a table of named overrides times seeds -> results with error bars and paired tests
  bench         step time, images/s and input wait, as JSON; `bench input`: JPEGs to inputs, stage by stage
  import-torch  a published PyTorch checkpoint -> a workdir
  prepare       ImageNet, ADE20K, CIFAR, CIFAR10-DVS, one's own folders -> a tfds directory; scenes of digits

`python -m launch VERB --help` lists the flags of a verb. Any key of a config can be overridden after it:
`--config configs/digits.py --config.model.bits=2 --config.epochs=5`.
"""

import importlib
import os
import sys
from collections.abc import Callable

from launch.interrupt import LINE, STATUS, Interrupts, leave

VERBS = {
    "train": "launch.train",
    "eval": "launch.evaluate",
    "predict": "launch.predict",
    "export": "launch.export",
    "energy": "launch.energy",
    "verify": "launch.verify",
    "merge": "launch.merge",
    "information": "launch.information",
    "inspect": "launch.inspect",
    "ablate": "launch.ablate",
    "bench": "launch.bench",
    "import-torch": "launch.import_torch",
    "prepare": "launch.prepare",
}


CLOSED_PIPE = 141  # As a process that SIGPIPE ends.


def main(arguments: list[str], begin: Callable[[], None] = lambda: None) -> int:
    """Runs one verb.

    Args:
      arguments: the words of the command line.
      begin: called when all is imported and the flags are read.

    Returns:
      The exit status: 0, 1 where `verify` found that something differs, 2 for a mistake of the user's or of
      the machine, 130 after Ctrl-C.
    """
    verb, rest = "train", arguments
    if rest and not rest[0].startswith("-"):
        verb, rest = rest[0], rest[1:]
    if verb not in VERBS:
        return _refuse(f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)}")

    # Imported late, so that --help and a mistyped verb answer at once.
    from launch.surroundings import explained, is_closed_pipe
    from qsdt_jax.command import COMMAND
    from qsdt_jax.errors import UserError
    from qsdt_jax.processes.preemption import Preempted
    from qsdt_jax.progress import tell

    status = 0
    try:
        if not arguments or arguments[0] in ("--help", "-h"):
            print((__doc__ or "").replace("python -m launch", COMMAND), flush=True)
            return 0
        module = importlib.import_module(VERBS[verb])
        from launch.flags import parse

        if parse(verb, module.__doc__ or "", rest):
            begin()
            status = module.main() or 0
        sys.stdout.flush()
    except UserError as error:
        return _refuse(str(error))
    except Preempted as stopped:
        tell(str(stopped))
        sys.stdout.flush()
        os._exit(0)  # A compilation left behind in its thread must not hold up the exit.
    except KeyboardInterrupt as error:
        tell(str(error) or LINE)
        return STATUS
    except Exception as error:
        if is_closed_pipe(error):
            return CLOSED_PIPE
        if (line := explained(error)) is None:
            raise
        return _refuse(line)
    return status


def run() -> int:
    """The process of `python -m launch`: all of `main`, and what would spoil it from outside."""
    interrupts = Interrupts()
    interrupts.install()
    from launch.surroundings import prepare_surroundings
    from qsdt_jax.errors import UserError

    try:
        prepare_surroundings()
        status = main(sys.argv[1:], interrupts.begin)
    except UserError as error:
        return _refuse(str(error))
    except BaseException:
        if not interrupts.came:
            raise
        leave()  # A library has made another error of the interrupt.
    if status == STATUS:
        leave("")
    if status == CLOSED_PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Else Python tells at its end what it cannot write.
    return status


def _refuse(message: str) -> int:
    from qsdt_jax.progress import tell

    tell(f"error: {' '.join(message.split())}")
    return 2


if __name__ == "__main__":
    sys.exit(run())
