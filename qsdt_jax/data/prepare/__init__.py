"""From the files that users have to a tensorflow-datasets directory in array_record shards.

One module for each real format finds the records (`imagenet`, `cifar`, `cifar10dvs`, `imagefolder`,
`eventfolder`), `writer` stores them; `records` is what the two sides agree on.
"""
