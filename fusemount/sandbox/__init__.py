"""The room of `imgmount run`: runs a command of an image in a root that is the mounted image.

run.py starts the processes, userns.py makes a user root of a user namespace, command.py works out
the command from the image's config, newroot.py and target.py set up the root, init.py is its pid 1,
program.py refuses programs that would run a file of the host.

Law: an image may be hostile.  What is opened, made or mounted in it is resolved inside its root,
and nothing stays when the command has ended.
"""
