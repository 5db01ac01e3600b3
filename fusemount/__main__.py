"""`python -m fusemount` is the command `imgmount`."""

from fusemount.cli.main import entry

entry()
