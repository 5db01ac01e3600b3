"""Law: `imgmount run`: a command of an image, in a root that is the mounted image."""
