"""What is added to a fit

loss_terms      Named terms of the losses, a batch and an epoch at a time
running_loss    Losses that stay on the device until they are read
held_out        What valid_loss says of people without a class
centers         Moves the centers of a `CenterLoss`
octuplet        Fine-tunes by the Octuplet loss, a peer
margin          Fine-tunes by the margin of AdaFace and its kin, peers too
partial_update  Moves the centers of a `PartialFC`
many            A fit over several processes
track_run       Logs to Weights & Biases
judged          The curves of what was judged in a fit, and figures by quality
two_fits        Makes one of the two of `fine_tune`
found           What is known about a learner without being told
save_state      Resume: keeps all that a fit needs to go on
finished        Takes what a stage has left, where that was finished before
kept            What it has kept, read back
"""
