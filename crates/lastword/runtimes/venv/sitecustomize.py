# Flush help inside of a virtual environment, where Python imports no usercustomize.
import sys

for stream in (sys.stdout, sys.stderr):
    try:
        stream.reconfigure(line_buffering=True)
    except Exception:
        pass  # a closed stream, or one that has no buffer
del stream

# The module of this name that the environment or the distribution has was hidden by this one.
_ours = sys.modules.pop(__name__)
_here = "/.lastword/help/venv"
_at = sys.path.index(_here) if _here in sys.path else None
if _at is not None:
    del sys.path[_at]
    try:
        import sitecustomize
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.path.insert(_at, _here)
sys.modules.setdefault(__name__, _ours)
