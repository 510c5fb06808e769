"""`endcap facts`: sets, shows and follows what changes between two builds: stock, prices and standing rules."""
