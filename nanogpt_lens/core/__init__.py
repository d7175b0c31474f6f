"""What everything stands on: errors, checks of options, intervals, work that can be resumed, several processes."""
