"""Where training runs: jobs, the code they run, what happened to them. Imports train and models; nothing imports it."""
