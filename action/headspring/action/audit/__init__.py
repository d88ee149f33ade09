"""Who did what, in a form that shows when somebody changed it later."""
