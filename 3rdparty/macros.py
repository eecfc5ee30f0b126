# BUILD macros. A shared library is one set of sources built for several resolves.

# torch-cuda has the sources and versions of torch-cpu with PyTorch's CUDA build. Checking it as well would say nothing
# new and fetch gigabytes of CUDA libraries, so it is only packaged.
CUDA = "torch-cuda"

NOT_SOURCES = ("!*_test.py", "!testing*.py", "!conftest.py", "!*_bench.py")


def library(resolves, sources=("*.py",), name="sources", **kwargs):
    """Sources that are importable in each of `resolves`; the torch-cuda copy is not linted and not type-checked."""
    sources = (*sources, *NOT_SOURCES)
    checked = [resolve for resolve in resolves if resolve != CUDA]
    if checked:
        resolve = parametrize(*checked) if len(checked) > 1 else checked[0]
        python_sources(name=name, sources=sources, resolve=resolve, **kwargs)
    if CUDA in resolves:
        python_sources(
            name=name + "-cuda",
            sources=sources,
            resolve=CUDA,
            skip_black=True,
            skip_mypy=True,
            skip_ruff=True,
            **kwargs,
        )
