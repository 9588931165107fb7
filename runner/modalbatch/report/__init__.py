"""What people see of plans and runs. Runs on: laptop. `console` prints, `text` and `meter` only say what."""
