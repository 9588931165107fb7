"""Where containers run: `modal` (the user's account) or `local` (this machine). Runs on: laptop."""
