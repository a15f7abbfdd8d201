"""What pyproject.toml cannot say: recipes/ ships inside the package, as trtbuild/_recipes."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["trtbuild", "trtbuild.*"]), "trtbuild._recipes"],
    package_dir={"trtbuild._recipes": "recipes"},
    package_data={"trtbuild": ["py.typed"], "trtbuild._recipes": ["**/*"]},
    exclude_package_data={"trtbuild._recipes": ["**/__pycache__/*"]},
)
