"""The driver: plan, feed, ledger, manifest, sweep. Runs on: container; laptop for planning and sweeping."""
