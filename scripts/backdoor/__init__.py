"""A backdoor at nanoGPT scale: what is trained, what is measured, and how well tools find it that know no trigger."""
