class SmallModel { constructor() { throw new Error("not here"); } }
