"""Training objectives: functions of final hidden states, head and batch."""
