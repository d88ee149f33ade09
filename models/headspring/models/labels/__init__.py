"""What people and outcomes said about incidents, runs and alerts, as training labels."""
