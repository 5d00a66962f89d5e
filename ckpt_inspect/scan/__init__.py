"""What a file would do if somebody loaded it: verdict and coverage, from the inert pickle program."""
