"""What the documents say is run: commands, Python, and the site that is made of them."""
