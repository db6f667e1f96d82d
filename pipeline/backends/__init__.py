"""Where images come from: each backend reads and decodes an image once and cuts it where the plan says."""
