"""Training objectives: functions of final hidden states, head and batch; and the protocol that all of them follow."""
