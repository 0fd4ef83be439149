"""The demonstration: a year of real flights through the whole loop, with a disturbance and a proof at the end."""
