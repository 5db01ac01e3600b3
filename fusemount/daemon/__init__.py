"""Floor 6: mounts, the processes that serve them, and the sandbox of `imgmount run`.

Law: nothing here prints or parses a command line; errors are `fusemount.errors`.
"""
