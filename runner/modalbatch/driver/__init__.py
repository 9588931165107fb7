"""What runs in the driver container: plan, feed, ledger, manifest, sweep. Runs on: container, and laptop for planning."""
