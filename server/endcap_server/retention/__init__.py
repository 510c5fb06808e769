"""`endcap exposures`: what is recorded, and how it is erased."""
