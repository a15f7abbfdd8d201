"""`python -m trtbuild` is `trtbuild`."""

from trtbuild.cli.main import main

main()
