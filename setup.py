"""What pyproject.toml cannot say: recipes/ and plugins/ ship inside the package, as trtbuild/_recipes and _plugins."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["trtbuild", "trtbuild.*"]), "trtbuild._recipes", "trtbuild._plugins"],
    package_dir={"trtbuild._recipes": "recipes", "trtbuild._plugins": "plugins"},
    package_data={
        "trtbuild": ["py.typed"],
        "trtbuild.triton": ["python_models/*.py"],
        "trtbuild._recipes": ["**/*"],
        "trtbuild._plugins": ["**/*"],
    },
    exclude_package_data={"trtbuild._recipes": ["**/__pycache__/*"], "trtbuild._plugins": ["**/__pycache__/*"]},
)
