"""What few-shot evaluation is made of: shots, what is learned on them, how it is selected, and the table."""
