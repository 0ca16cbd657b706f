"""The judge as a reward in trainers: the same groups get equal rewards through each of them."""
