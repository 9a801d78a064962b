"""The 336,776 flights that left New York in 2013, served through every protocol."""
